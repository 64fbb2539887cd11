"""Numbers of this library against numbers of the original SynthSR."""
