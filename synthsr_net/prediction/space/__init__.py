"""From the space of a scan to that of the network and back: grids, intensities, doubts."""
