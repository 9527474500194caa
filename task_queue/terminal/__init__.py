"""The person's side: lines, questions, and text that can do no harm on a terminal."""
