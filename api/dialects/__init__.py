"""Foreign orders in native words, and answers in foreign ones. Nothing here asks or waits."""
