"""meshsup beside its peers, in one run on one machine: ``python -m benchmarks`` writes docs/benchmarks.md.

programs.py   the agents that everybody runs
peers.py      how each tool is installed, configured, started and asked
venvs.py      interpreters for agents with heavy imports, made by uv
site.py       one running tool: its processes, and what the agents behind it answer
bench.py      one run: who takes part, and how often
load.py       requests at a steady rate by a client that never tries again; mcp_load.py: by the MCP SDK's own client
measure.py    what a tool does when nobody calls, each measurement a table
underload.py  what callers notice of reloads and kills
sdk.py        agents of the MCP Mesh SDK
soak.py       whether anything grows
report.py     medians, spread, and what stands in docs/benchmarks.md
"""
