"""meshsup beside its peers, in one run on one machine: ``python -m benchmarks`` writes docs/benchmarks.md.

programs.py   the agents that everybody runs
peers.py      how each tool is installed, configured, started and asked
site.py       one running tool: its processes, and what the agents behind it answer
measure.py    the measurements, each a table
report.py     medians, spread, and what stands in docs/benchmarks.md
"""
