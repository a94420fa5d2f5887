"""A stand-in server: answers clients from a recording, see :mod:`.server`.

`script` is what of a recording is to be asked for, `model` the tree that the recording is played
on, `playing` what one live session makes of a recorded one. None knows how replays are sent.
"""
