"""LoRAs of motion modules and of image layers: their names in files, saving, applying."""
