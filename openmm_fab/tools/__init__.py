"""Tools that know nothing of molecules or flows: files, memory, devices, fused functions, graphs, progress, angles."""
