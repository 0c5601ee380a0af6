"""Tells the time to whoever needs the capability ``time_now``."""

from datetime import datetime

import mesh
from fastmcp import FastMCP

app = FastMCP("clock")


@app.tool()
@mesh.tool(capability="time_now", version="1.0.0", tags=["system"])
def time_now() -> str:
    """The time of day."""
    return datetime.now().isoformat(timespec="seconds")


@mesh.agent(name="clock", version="1.0.0")
class Clock:
    pass
