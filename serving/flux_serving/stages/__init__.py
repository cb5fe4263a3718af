"""The steps from pictures to pictures: typed value in, typed value out, no state, no threads, no Triton."""
