"""What every part needs: messages, settings, downloads, devices, threads, drawing.

Ground floor: imports nothing else of the project but `io.atomic`.
"""
