"""Which job runs when, and the thread that runs it. No Triton here, and in `scheduler` no torch, thread or clock."""
