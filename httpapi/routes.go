package httpapi

import (
	"net/http"
	"slices"

	"github.com/perigee-run/perigee/api"
)

// route is one row of the API.
type route struct {
	method, path string
	access       access
	id           string // operation id; see tag
	summary      string
	query        []param
	endpoint     endpoint
}

// param is a query parameter. Its kind is "string", "integer", "boolean", or "object" for
// those whose names are the client's, NAME.KEY each.
type param struct{ name, kind, doc string }

// Methods, short, to keep the table in columns.
const (
	rGet    = http.MethodGet
	rPost   = http.MethodPost
	rPut    = http.MethodPut
	rPatch  = http.MethodPatch
	rDelete = http.MethodDelete
)

const (
	pApp     = "/v1/apps/{app_name}"
	pMachine = pApp + "/machines/{machine_id}"
)

// routes is the API: what there is, for whom, and who does it.
func (s *Server) routes() []route {
	return slices.Concat(
		s.appRoutes(),
		s.machineRoutes(),
		s.listRoutes(),
		s.memoryRoutes(),
		s.placementRoutes(),
		s.certificateRoutes(),
		s.releaseRoutes(),
		s.volumeRoutes(),
		s.recordRoutes(),
		s.wireguardRoutes(),
		s.sshRoutes(),
		s.clusterRoutes(),
		s.nodeRoutes(),
		s.tokenRoutes(),
		s.orgRoutes(),
		s.auditRoutes(),
	)
}

func (s *Server) appRoutes() []route {
	org := []param{{"org_slug", "string", "Only apps of this owner"}, {"app_role", "string", "Taken for Fly's clients and not looked at"}}
	return []route{
		{rGet, "/v1/apps", reads, "Apps_list", "List apps", org, get(s.listApps)},
		{rPost, "/v1/apps", owns, "Apps_create", "Create an app", []param{{"wait", "boolean", "Taken for Fly's clients and not looked at"}}, take(s.createApp).with(http.StatusCreated)},
		{rGet, pApp, reads, "Apps_show", "Show an app", nil, get(s.showApp)},
		{rDelete, pApp, owns, "Apps_delete", "Destroy an app with its machines, secrets and releases", []param{{"force", "boolean", "Taken for Fly's clients and not looked at"}}, act(s.deleteApp).with(http.StatusAccepted)},

		{rGet, pApp + "/secrets", reads, "Secrets_list", "List secrets, without their values", secretQuery, get(s.listSecrets)},
		{rPost, pApp + "/secrets", changes, "Secrets_update", "Set secrets, and remove those that are null", nil, take(s.setSecrets)},
		{rGet, pApp + "/secrets/{secret_name}", reads, "Secret_get", "Show a secret, without its value", secretQuery, get(s.showSecret)},
		{rPost, pApp + "/secrets/{secret_name}", changes, "Secret_create", "Set a secret", nil, take(s.setSecret)},
		{rDelete, pApp + "/secrets/{secret_name}", changes, "Secret_delete", "Remove a secret", nil, get(s.deleteSecret)},

		{rGet, pApp + "/hosts", reads, "Hosts_list", "List the app's custom names", nil, get(s.listHosts)},
		{rPost, pApp + "/hosts", changes, "Hosts_add", "Let the app answer to a name", nil, take(s.addHost).with(http.StatusCreated)},
		{rDelete, pApp + "/hosts/{host}", changes, "Hosts_remove", "Stop answering to a name", nil, act(s.removeHost)},

		{rGet, pApp + "/ip_assignments", reads, "App_IPAssignments_list", "List the app's own addresses", nil, get(s.listIPs)},
		{rPost, pApp + "/ip_assignments", owns, "App_IPAssignments_create", "Give the app an address of its own", nil, take(s.allocateIP)},
		{rDelete, pApp + "/ip_assignments/{ip}", owns, "App_IPAssignments_delete", "Take an address from the app", nil, act(s.releaseIP)},
	}
}

func (s *Server) machineRoutes() []route {
	restart := []param{{"timeout", "string", "Until SIGKILL: seconds, or with a unit"}, {"signal", "string", "Instead of the machine's stop signal"}, {"force_stop", "boolean", "By SIGKILL, at once"}}
	wait := []param{
		{"state", "string", "May be repeated, or hold commas; settled is any that lasts; default started"}, {"timeout", "string", "Seconds, at most and by default 60"},
		{"version", "string", "Answer replaced once the machine has another version"}, {"instance_id", "string", "The same as version, as older clients send it"},
		{"from_event_id", "string", "Count what came after this event"},
	}
	return []route{
		{rPost, pApp + "/machines", changes, "Machines_create", "Create a machine and start it", nil, take(s.createMachine)},
		{rGet, pMachine, reads, "Machines_show", "Show a machine", []param{{"version", "string", "Show it as it was in this version"}}, get(s.showMachine)},
		{rPost, pMachine, changes, "Machines_update", "Give a machine a new version", nil, take(s.updateMachine)},
		{rDelete, pMachine, changes, "Machines_delete", "Destroy a machine", []param{{"force", "boolean", "Also one that runs"}, {"kill", "boolean", "The same as force, as older clients send it"}}, act(s.deleteMachine)},

		{rPost, pMachine + "/start", changes, "Machines_start", "Start a machine, or wake it", nil, get(s.startMachine)},
		{rPost, pMachine + "/stop", changes, "Machines_stop", "Stop a machine", nil, actOn(s.stopMachine)},
		{rPost, pMachine + "/restart", changes, "Machines_restart", "Stop and start a machine", restart, act(s.restartMachine)},
		{rPost, pMachine + "/suspend", changes, "Machines_suspend", "Save a machine to disk", nil, silence(s.suspendMachine)},
		{rPost, pMachine + "/pause", changes, "Machines_pause", "Freeze a machine with its memory kept", nil, silence(s.pauseMachine)},
		{rPost, pMachine + "/signal", changes, "Machines_signal", "Send a signal to the first process", nil, actOn(s.signalMachine)},
		{rPost, pMachine + "/cordon", changes, "Machines_cordon", "Keep requests away from a machine", nil, act(s.cordonMachine)},
		{rPost, pMachine + "/uncordon", changes, "Machines_uncordon", "Let requests reach a machine again", nil, act(s.uncordonMachine)},

		{rGet, pMachine + "/wait", reads, "Machines_wait", "Wait for a state; 408 if it does not come", wait, get(s.waitMachine)},
		{rGet, pMachine + "/events", reads, "Machines_list_events", "List what happened, newest first", []param{{"limit", "integer", "At most so many"}}, get(s.machineEvents)},
		{rGet, pMachine + "/versions", reads, "Machines_list_versions", "List configurations, newest first", nil, get(s.machineVersions)},
		{rGet, pMachine + "/ps", reads, "Machines_list_processes", "List processes", []param{{"sort_by", "string", "Taken for Fly's clients and not looked at"}, {"order", "string", "Taken for Fly's clients and not looked at"}}, get(s.machineProcesses)},
		{rPost, pMachine + "/exec", execs, "Machines_exec", "Run a command and return its output", nil, take(s.execMachine)},
		{rGet, pMachine + "/exec/stream", execs, "Machines_exec_stream", "Run a command over a WebSocket, with or without a terminal", nil, raw{"", s.execStream}},

		{rGet, pMachine + "/lease", reads, "Machines_show_lease", "Show the lease", nil, get(s.showLease)},
		{rPost, pMachine + "/lease", changes, "Machines_create_lease", "Get or prolong a lease", []param{{"ttl", "integer", "Seconds"}}, take(s.acquireLease)},
		{rDelete, pMachine + "/lease", changes, "Machines_release_lease", "Release the lease", nil, act(s.releaseLease)},

		{rGet, pMachine + "/metadata", reads, "Machines_show_metadata", "Show metadata", nil, get(s.showMetadata)},
		{rPut, pMachine + "/metadata", changes, "Machines_replace_metadata", "Replace all metadata", nil, take(s.replaceMetadata)},
		{rPatch, pMachine + "/metadata", changes, "Machines_patch_metadata", "Set some metadata, and remove what is null", nil, take(s.patchMetadata)},
		{rGet, pMachine + "/metadata/{key}", reads, "Machines_get_metadata_key", "Show one key", nil, get(s.getMetadataKey)},
		{rPost, pMachine + "/metadata/{key}", changes, "Machines_update_metadata", "Set one key", nil, take(s.setMetadataKey).with(http.StatusNoContent)},
		{rDelete, pMachine + "/metadata/{key}", changes, "Machines_delete_metadata", "Remove one key", nil, get(s.deleteMetadataKey).with(http.StatusNoContent)},
	}
}

func (s *Server) releaseRoutes() []route {
	build := []param{
		{"dockerfile", "string", "Slash-separated path in the context; default Dockerfile"}, {"target", "string", "Stage; default the last"},
		{"arg", "string", "NAME=VALUE, may be repeated"}, {"no_cache", "boolean", "Run every step again"},
	}
	logs := []param{
		{"machine", "string", "Only this machine"}, {"region", "string", "Only machines here"}, {"lines", "integer", "Past lines; 100000 at most; default 100, or all with since; negative means none"},
		{"since", "string", "A time (RFC 3339), or how long ago, such as 10m"}, {"follow", "boolean", "Go on with new lines"},
	}
	return []route{
		{rGet, pApp + "/releases", reads, "Releases_list", "List releases, newest first", nil, get(s.listReleases)},
		{rPost, pApp + "/releases", changes, "Releases_create", "Deploy a new release", nil, progress(s.deploy)},
		{rGet, pApp + "/releases/{version}", reads, "Releases_show", "Show a release", nil, get(s.showRelease)},
		{rPost, pApp + "/rollback", changes, "Releases_rollback", "Make a new release from an older one", nil, progress(s.rollback)},
		{rPost, pApp + "/scale", changes, "Releases_scale", "Change number and size of machines", nil, progress(s.scale)},
		{rPost, pApp + "/build", changes, "Builds_create", "Build a Dockerfile; the body is the folder as a tar", build, upload{"application/x-tar", s.build}},
		{rGet, pApp + "/logs", reads, "Logs_list", "Read what machines said", logs, stream[none, api.LogLine]{s.logs}},

		{rGet, "/v1/images", reads, "Images_list", "List the images on the node", nil, get(s.listImages)},
		{rPost, "/v1/images/pull", changes, "Images_pull", "Bring an image to the node", nil, progress(s.pullImage)},
		{rPut, "/v1/images/import", changes, "Images_import", "Import an archive: docker save's, an OCI archive, or a tar of an OCI layout", []param{{"app", "string", "Names the image"}}, upload{"application/x-tar", s.importImage}},
		{rDelete, "/v1/images/{digest}", operates, "Images_delete", "Remove an image that no machine uses", nil, act(s.deleteImage)},
	}
}

func (s *Server) nodeRoutes() []route {
	return []route{
		{rGet, "/v1/node", reads, "Node_show", "What the node is and has", nil, get(s.showNode)},
		{rGet, "/v1/platform/regions", reads, "Platform_regions", "List the regions that have nodes", []param{{"app_name", "string", "Count machines of this app only"}}, get(s.listRegions)},
		{rPost, "/v1/node/stop", operates, "Node_stop", "End the daemon; machines keep running", []param{{"machines", "boolean", "Stop all machines first"}}, act(s.stopNode).with(http.StatusAccepted)},

		{rGet, "/healthz", open, "Meta_health", "Answers while the daemon runs", nil, get(func(*call) (api.OKResponse, error) { return api.OKResponse{OK: true}, nil })},
		{rGet, "/openapi.json", open, "Meta_openapi_json", "This document", nil, s.file("application/openapi+json", &s.json)},
		{rGet, "/openapi.yaml", open, "Meta_openapi_yaml", "This document as YAML", nil, s.file("application/openapi+yaml", &s.yaml)},
		{rGet, "/docs", open, "Meta_docs", "This document for people", nil, s.file("text/html; charset=utf-8", &s.page)},
	}
}

// file serves bytes that New made.
func (s *Server) file(media string, b *[]byte) endpoint {
	return raw{media, func(c *call) error {
		c.w.Header().Set("Content-Type", media)
		c.w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_, _ = c.w.Write(*b) // the client may be gone
		return nil
	}}
}
