"""The process group of a run over several ranks, at its end."""

from accelerate import PartialState


def leave_process_group() -> None:
    """Take this rank out of the process group that Accelerate made; every rank calls it where no more is exchanged.

    A gloo thread that outlives the interpreter aborts the process, and a run that went well would end with the status
    of one that failed (https://github.com/pytorch/pytorch/issues/190489). A group of one process is left alone: it is
    vLLM's, which goes on using it.
    """
    if PartialState().use_distributed:
        PartialState().destroy_process_group()
