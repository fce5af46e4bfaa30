"""From audio to transcripts: options, decoder, recordings of any length, streams, many files."""
