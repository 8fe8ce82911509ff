"""What one process of a measurement does: it times a subject, and reads what memory and energy that took."""
