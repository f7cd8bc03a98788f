"""The MESSAGE_ID of every kind of record (systemd.journal-fields(7)), drawn at random once and never changed.

`journalctl MESSAGE_ID=...` and a message catalogue find a kind by it whatever its wording, so a record whose text is
reworded takes its number along.
"""

from __future__ import annotations

MESSAGE_IDS = {
    "uplink_up": "f4ab644653a641b793c29d9280b40b21",
    "uplink_down": "d635f09c6ef84973812400591e7633c9",
    "uplink_degraded": "c7e953d82b504799866aad2b6b5c9358",
    "uplink_restored": "8187fa7f933c4478a27e53bfc43d1603",
    "uplink_drained": "a462d91f3fda4dda9feef0754a30af74",
    "uplink_resumed": "241bbdf865d742a5a91ad2ee921a99f3",
    "member_up": "ef1d0fa045ff470da5bec3fd1be83836",
    "member_down": "67175d68e87342be8ba6cf5df93e2272",
    "configuration": "a6ae1c4b68cc404cb72a96c456b8d3ad",
    "configuration reloaded": "e02601d0aca7453e8911397f2eeb3b66",
    "configuration not reloaded, the old one stays": "9d4e5b8475d942e193dd45adfc2080af",
    "the kernel refused changes; trying again": "0c18b84d40704f58b3ef05e8b454ad00",
    "the kernel agrees again": "c12eea5906c3465db89d63fb3b2db26e",
    "repaired what another program changed": "37fa0c15aea4490fa81599f93c68f7b9",
    "another program works against mlbd": "4955ea9310d04d2dabf5f3fe0fde7298",
    "connections cut loose": "1ccc74a1c8de4e74a554d893c15106b0",
    "netlink messages were lost, looking again": "37d0ec181f884cb3826e59443240e498",
    "maintenance": "2d481c0c7ebc4af2b992bb02fc1b7bc3",
    "all probes fail": "a25341e93eb8426d94fcc7beb6db78bd",
    "probes are no evidence": "1966a3fad52d4296b540d2f3a8f7da44",
    "probes are evidence again": "aa9a9206472b4c86b100381462bff0ca",
    "hook output": "f1e8973bda7646b7b84899eb8926483a",
    "a hook failed": "9fb069b90b414f29b29f074f3aae162a",
    "a hook left something running": "9566a16169b64dde869ac5331593af64",
    "hooks are too slow, older events are left out": "f7cfedb0e94e40ada80a91d337994fdd",
    "could not start": "04b8cdaea0484c049bd8e662f13f08f4",
    "internal error, please report it": "2e6eabc26b27c1af3e58f4784fe7d354",
    "could not release": "8e0cf5c53eeb4c308b4e1669902ad7ca",
}
