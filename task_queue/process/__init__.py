"""The program as the system sees it: how it starts and ends, and its signals."""
