# What the supervisor starts in place of an agent's program: python [flags] …/runtime/__main__.py FD KIND NAME [ARG…]
# KIND script or module: the program. KIND warm: a process that waits until it is to be one (warm.py).
#
# This file is never cached as bytecode and its names are the program's, so it is as short as can be; the rest is in
# begin.py and program.py. The last line is the program: it is run from here, at the top level, in this very namespace,
# so that Python itself waits for its threads, calls what it has registered, flushes, and says how it ended.
import sys

if not sys.flags.isolated and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # this folder
sys.path_importer_cache.pop(__file__, None)
_package = type(sys)("_meshsup")
_package.__path__ = [__file__[: __file__.rindex("/")]]
sys.modules["_meshsup"] = _package
from _meshsup.begin import ready  # type: ignore[import-not-found]  # noqa: E402

ready(globals())()
