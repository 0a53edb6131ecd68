"""How fast is the engine on this device? One process per variant, side by side with plain diffusers."""
