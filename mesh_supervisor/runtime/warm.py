"""A warm process: it has imported what an agent will import, calls nothing in it, and waits on its channel.

Asked, it forks the instance (a template) or becomes it (a spare). Either way `serve` returns in the process that is the
instance, to the top level of ``__main__``, and the rest goes as for a cold start.

Packets, host → guest:

``warm``    {"modules": [names], "trial": bool, "more": bool}. Imported in this order, one by one. ``more`` (default
            false): another ``warm`` with further names follows at once (a packet holds about 3,500 names). ``trial``: a
            template; try whether it may fork. The ``trial`` of the last one counts.
``judge``   {"modules": [names]}. Only to a process that was warmed with no modules; it serves nothing else afterwards
            and is to be closed when it has answered. See judge.py.
``start``   as in the contract. ``environ``: complete; ``files``, ``umask``: null leaves what the warm process has.
            ``environ`` and the like have to fit into one packet.

Guest → host, while warming:

``warmed``  {"ms": float, "failed": {module: why}, "fork": bool, "why": str, "needed": [names]}. ``failed``: left out,
            nothing is wrong with the rest. ``fork`` false where no trial was asked for. ``needed``: those of ``modules``
            that were not there yet when their turn came: enough to ask for next time, a tenth of a list as learnt.
``refused`` {"why": str, "spare": bool, "leave_out": [names], "ms", "failed", "needed"}. It must not fork. ``spare``: it
            may become an instance (true unless what was imported brought in project code). ``leave_out``: the names in
            ``modules`` that made it so, as far as that is known: a new one without them may do. After ``spare`` false
            the process ends by itself. Also said later, when a template is found to have threads at a fork.

Guest → host, for each ``start``:

``forked``   {"id", "pid"}. The instance leads a session, carries its tag, is the child of ``parent`` and will die with
             it. A spare says it of itself, then waits (at most 1 s) until its warm channel is closed by the host.
``unforked`` {"id", "why", "stale": bool, "hides": str}. Nothing was started; start it cold. ``stale``: the installed
             packages are not those that were imported: renew the warm process. ``hides``: a file of the program that
             has the name of a module that is loaded already ("agents/queue.py"): this agent is not for this template.

A warm process whose channel ends, exits at once; what it forked lives on.
"""
