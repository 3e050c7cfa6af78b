"""A linear layer and the GEGLU of its result in one launch, which writes half of what the layer alone would."""
