"""Visual instruction data from nothing: a writer invents prompts and dialogues, a painter draws."""
