"""Where processes run. `local` is this machine; what is above the engine knows only `protocol.Engine`."""
