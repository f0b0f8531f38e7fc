"""What grafts practise on, apart from all that `thoughtmix bench` reports: categories of WordNet, puzzles of numbers
and words, the bench's development tasks, open prompts. world.py puts them together and keeps what is reported out."""
