"""Forks of this process, which may end at one of their calls of the operating system as if killed there."""
import os
import threading

from tqdm.auto import tqdm

from crp.store import temporaries

CALLS = "rename", "link", "unlink", "mkdir", "rmdir", "fsync"
KILLED = 9


def fork(function):
    """Begin a function in another process, which is to end with 0."""
    child = os.fork()
    if child == 0:
        try:
            tqdm.set_lock(threading.RLock())  # one that forked processes do not share
            temporaries._own.clear()
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def ended(child):
    """How a process ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(number, function):
    """Run a function in another process that ends before its call with a number; whether it had so many."""
    def run():
        counted = iter(range(1, number))
        for name in CALLS:
            setattr(os, name, _counting(getattr(os, name), counted))
        function()

    code = ended(fork(run))
    assert code in (0, KILLED)
    return code == KILLED


def _counting(call, counted):
    def counting(*arguments, **options):
        if next(counted, None) is None:
            os._exit(KILLED)
        return call(*arguments, **options)
    return counting
