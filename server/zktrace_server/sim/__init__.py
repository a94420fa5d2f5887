"""Whole ensembles with their clients in one process, from one seed: the cores of `core.quorum` on a
network, disks and clocks that do what real ones do at their worst.

`world` is time and network, `disk` what survives, `node` a server as its driver runs it, `client`
what clients do and see; `checks` looks after every step of a server whether what must hold holds,
`history` whether clients saw what ZooKeeper promises; `campaign` runs seeds, `bugs` are planted to
show that they are found.
"""
