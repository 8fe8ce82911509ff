"""The options, each with one meaning and one spelling, and the forms that their values have."""
