"""What became of runs: evidence from their folders, verdicts, findings and comparisons."""
