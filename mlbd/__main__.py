from mlbd.cli import main

raise SystemExit(main())
