"""Before anything is trained: what a plan can gain on a device, and which of some plans can gain most.

candidates   plans that one would write down by hand: depth exits, widths, and mixes of both
prior        what is known of exits: how often they are right, and how many images they keep
forecast     the time of a plan's stages, and what comes of it if so many images exit early
auto         the candidate that is expected to answer fastest
instead      what else makes a network faster, measured, where little is to be gained
"""
