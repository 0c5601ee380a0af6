"""Greets with the time, which it asks from whichever agent of the mesh can tell it."""

import mesh
from fastmcp import FastMCP

app = FastMCP("greeter")


@app.tool()
@mesh.tool(
    capability="greeting",
    version="1.0.0",
    dependencies=[{"capability": "time_now", "version": ">=1.0.0", "tags": ["system"]}],
)
async def greet(name: str = "you", time_now: mesh.McpMeshTool | None = None) -> str:
    """A greeting. ``time_now`` is put in by the SDK, None while nobody in the mesh can tell the time."""
    if time_now is None:
        return f"Hello {name}, I do not know what time it is"
    return f"Hello {name}, it is {await time_now()}"


@mesh.agent(name="greeter", version="1.0.0")
class Greeter:
    pass
