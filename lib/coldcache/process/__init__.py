"""The process beside the recording: started under memray or attached to, and sampled."""
