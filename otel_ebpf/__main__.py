"""python -m otel_ebpf"""

from otel_ebpf.cli import main

raise SystemExit(main())
