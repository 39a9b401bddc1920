package httpapi

import "github.com/perigee-run/perigee/api"

func (s *Server) memoryRoutes() []route {
	return []route{
		{rGet, pMachine + "/memory", reads, "Machines_get_memory", "Show how much memory a running machine may hold, and how much is free", nil, get(s.showMemory)},
		{rPut, pMachine + "/memory", changes, "Machines_set_memory_limit", "Bound a running machine's memory anew, until it starts the next time", nil, take(s.setMemory)},
		{rPost, pMachine + "/memory/reclaim", changes, "Machines_reclaim_memory", "Take back memory that a running machine can do without", nil, take(s.reclaimMemory)},
	}
}

func (s *Server) showMemory(c *call) (api.MachineMemory, error) {
	id, err := s.id(c)
	if err != nil {
		return api.MachineMemory{}, err
	}
	return s.cfg.Machines.Memory(c.r.Context(), id)
}

func (s *Server) setMemory(c *call, in api.SetMemoryRequest) (api.MachineMemory, error) {
	err := s.on(c, func(id string) error { return s.cfg.Machines.SetMemory(c.r.Context(), id, in.LimitMB, c.nonce()) })
	if err != nil {
		return api.MachineMemory{}, err
	}
	return s.showMemory(c)
}

func (s *Server) reclaimMemory(c *call, in api.ReclaimMemoryRequest) (out api.ReclaimMemoryResponse, err error) {
	return out, s.on(c, func(id string) (err error) {
		out.ActualMB, err = s.cfg.Machines.ReclaimMemory(c.r.Context(), id, in.AmountMB, c.nonce())
		return err
	})
}
