"""Fleets: bring servers up, see them, take them down.

::

    spec        the YAML file: which engine, how many agents, where
    engines     the command line of each kind of engine
    gpus        which GPUs are free, and which an agent gets
    run_folder  what a fleet's processes and its onlookers tell each other through files
    launchers/  how agents come onto machines: local, Slurm, PBS, ssh, Kubernetes
    supervisor  on each machine: starts engines, announces them, starts them again, ends them
    keeper      around a supervisor: starts it again if it is killed
    leash       between supervisor and engine: ends all processes of an engine, whichever was killed
    lifecycle   up and down
    status      what each agent is doing
    check       preflight: is this fleet fit for a job
"""

__all__: list[str] = []
