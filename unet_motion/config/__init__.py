"""What is built: the configurations of the UNet and of an adapter, and each translation between them."""
