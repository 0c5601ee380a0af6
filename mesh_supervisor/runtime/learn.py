"""Tells the supervisor what an instance has imported, so that the next one can be started from a warm process.

``inventory`` {} is answered by ``modules``, several packets where one is too small: {"top", "modules", "standard",
"names", "added", "dotenv", "left_out", "places", "more": bool}. Lists and objects are to be joined; ``more`` is false in
the last. Asked again, it tells everything again.

``top``      {name: version or null}: the top-level third-party modules that are loaded (``__version__``, where it is a
             string: for people; keys are better made of the ``*.dist-info`` folders in ``places``).
``modules``  all third-party modules that are loaded and may be imported ahead, in the order of their import
             ("fastapi", "fastapi.routing", "_mcp_mesh.engine.http_wrapper"): what ``warm`` takes.
``standard`` the same for the standard library, without what Python itself loads at its start.
``names``    names in the environment that were looked up while third-party or standard modules were imported.
``added``    names that were added to the environment while such modules were imported.
``dotenv``   .env files that such modules have loaded (absolute paths).
``left_out`` {top-level name: why}: loaded, and not to be preloaded ("editable", "also in the project", …).
``places``   the site-packages folders that they came from.

Only modules that lie in a site-packages folder count: project code, editable installs and namespace packages that the
project has a share in do not.
"""
