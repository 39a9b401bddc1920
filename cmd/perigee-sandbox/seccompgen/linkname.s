// This file is empty on purpose: it lets main.go declare a function whose body
// is elsewhere.
