"""What ends the replicator for good; all else it rides out by itself."""


class ReplicatorError(Exception):
    """The replicator cannot go on; the text says what to do about it."""


class Fenced(ReplicatorError):
    """Another replicator of the same gateway took over. This one gives way: it must not be restarted beside it."""


class SameCluster(ReplicatorError):
    """Edge and cloud are one cluster; each record would come back for ever."""


class Stuck(ReplicatorError):
    """A thread of the replicator ended with an error that nobody foresaw."""


class Stopped(Exception):
    """Within the replicator: the process is asked to stop, and a lane leaves off where it is."""
