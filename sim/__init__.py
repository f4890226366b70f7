"""Executes a Program: functional, cycle model, Verilated RTL; DRAM, energy, reports."""
