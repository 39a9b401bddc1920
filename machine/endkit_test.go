package machine

func endKit() {}
