"""All checks before training, one file for each thing that is checked. Most need no model.

    values.py      ranges and choices of single fields, and what must fit together
    mappings.py    mappings inside a field: generation, schedule, gradient checkpointing
    schedule.py    steps that must fit together: of rollouts, evaluations, checkpoints and the log
    best_figure.py whether evaluations have the figure that chooses the best model
    explained.py   what TRL and Transformers refuse, told with field, value and remedy
    optimizer.py   whether the optimizer can be built
    model.py       keyword arguments of the model, and its adapter
    trainable.py   whether training can change the model at all
    problems.py    enough problems for a rollout, and room for prompt and completion
    trackers.py    what `report_to` names
    reference.py   whether there is a reference model to synchronise
    stages.py      whether the window limits rollouts, and whether they can be sampled in stages
    resuming.py    the checkpoint that a run continues from
    continuing.py  what may change when a run is continued
    launch.py      what `accelerate launch` was asked for, and what runs
    disk.py        a folder that can be written, with room for a checkpoint
    run.py         all of them for one recipe, in order

Each raises a ValueError of one line that names field, value and remedy.
"""
