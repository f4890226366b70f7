"""The accelerator around the processing elements: configuration, instruction set, core, memories."""
