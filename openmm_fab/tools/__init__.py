"""Tools that know nothing of molecules or flows: files, memory, devices, compiled functions, progress, the circle."""
