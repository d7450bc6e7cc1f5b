"""What the scripts beside this one share: checks that are counted, waiting, and ports."""

import socket
import time

# In seconds: long enough for a loaded machine. Nothing waits this long where all is well.
PATIENCE = 60

passed = failed = 0


def check(what, found, expected=True):
    """Compares, counts and tells."""
    tell(what, found == expected, found, expected)


def check_one_of(what, found, allowed):
    """The same where more than one answer is right."""
    tell(what, found in allowed, found, allowed)


def tell(what, is_good, found, expected):
    global passed, failed
    if is_good:
        passed += 1
        print(f"ok      {what}")
    else:
        failed += 1
        print(f"FAILED  {what}\n        found    {found!r}\n        expected {expected!r}")


def report():
    """Prints how many there were, and returns the program's exit code."""
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def wait_for(what, ready):
    """Asks until the answer is true, and returns it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = ready()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError(what)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
