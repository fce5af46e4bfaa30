"""Neural networks: recurrent cells, subsampling, the acoustic model."""
