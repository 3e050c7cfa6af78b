"""What stands in for CUDA graphs where there is no card."""


class Recorder:
    """A graph's behaviour without a GPU, of one result or several: fixed inputs and outputs."""

    def __init__(self):
        self.captured = 0

    def __call__(self, work, device):
        self.captured += 1
        out = work()

        def replay():
            pairs = zip(out, work(), strict=True) if isinstance(out, tuple) else [(out, work())]
            for held, found in pairs:
                held.copy_(found)

        return replay, out
