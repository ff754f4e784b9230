"""What can be measured of teachers and of synthetic sets beside students' accuracy. One question a file."""
