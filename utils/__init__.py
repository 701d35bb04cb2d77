"""Everything that touches files, images, devices and processes; no networks (those are in `models`)."""
