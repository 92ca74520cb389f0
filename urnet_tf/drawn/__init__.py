"""The drawn crawl: toy pictures with planted noise, made by the program itself."""
