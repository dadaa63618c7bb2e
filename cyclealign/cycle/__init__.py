"""One run: started, looped, watched, resumed, exported."""
