"""`hdsnic demo`: the whole system on real traffic, and a table of what was seen."""
