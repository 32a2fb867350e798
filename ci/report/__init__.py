"""JUnit to results to text. Pure, light, and suspicious of every byte it reads."""
